"""Fault injectors in processes of their own: ours and other people's, measured in the same way."""
