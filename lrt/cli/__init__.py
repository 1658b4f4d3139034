"""Commands: the only folder that knows Hydra's application, W&B and the terminal."""
