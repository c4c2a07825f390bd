"""Pallas kernels: for TPUs, through Mosaic."""
