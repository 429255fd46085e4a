"""Command line tools around the engine: checkpoints to GGUF, and the ranking of tokens by frequency.

They need the packages of the extra `tools` (`pip install 'frspec_cpp[tools]'`); importing this package alone
does not.
"""
