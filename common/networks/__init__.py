"""The networks that a study may name: a table of their traits, and a file for each network that no library has.

Reading a study needs the names and traits alone, so `registry` and `encoders` import no torch.
"""
