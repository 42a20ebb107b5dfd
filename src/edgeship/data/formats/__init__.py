"""Readers of the label formats that people have, one file each; :mod:`.recognise` tells which lies there."""
