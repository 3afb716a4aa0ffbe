"""Tokenizers: ``tokenizer.json``, vocabularies inside GGUF files, WordPiece ``vocab.txt`` and plain bytes."""
