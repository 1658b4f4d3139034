"""Results on disk: whole or absent, sealed with a digest, reused by what determines them."""
