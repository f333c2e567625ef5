"""Tables to text. Functions return strings (or rich renderables) and print nothing."""
