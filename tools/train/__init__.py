"""frspec-train: trains EAGLE-2 and EAGLE-3 drafters, and SpecVocab factors, for a frozen target model.

`cli` reads the options, `job` puts the parts together, `loop` runs the steps. PyTorch is imported only by the modules
that need it, so that a missing package is one clear line.
"""
