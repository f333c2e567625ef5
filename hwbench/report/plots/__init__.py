"""Drawings of a report as inline SVG. The only package that imports matplotlib, when it draws."""
