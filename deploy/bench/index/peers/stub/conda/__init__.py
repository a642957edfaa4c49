"""The two names that conda-index takes from conda, which PyPI does not have. Used only where there is no conda."""
