"""One file per format of the input. Import `read` from `choose`."""
