"""Edits to outputs, exactly: what every runtime's replayer shares.

``naive`` is the slow way that needs no trust: a corrupted artifact, a fresh session, the whole
batch. ``gate`` lets a faster way pass only where it gives the same bytes.
"""
