"""Publisher signatures: keys, DSSE envelopes, OpenSSF model-signing bundles."""
