"""Results on disk: whole or absent, sealed with a digest, found again by what determines them."""
