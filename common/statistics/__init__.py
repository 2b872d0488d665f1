"""Confidence intervals and paired tests over patients."""
