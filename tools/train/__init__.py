"""frspec-train: trains EAGLE-2 and EAGLE-3 drafters, and SpecVocab factors, for a frozen target model.

`cli` reads the options, `gguf_job` puts the parts together for a target in a GGUF file and `job` for a Hugging Face
folder, `loop` runs the steps. PyTorch is imported only by the modules that need it, so that a missing package is one
clear line.
"""
