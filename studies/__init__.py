"""Studies behind figures in docs/ that the package itself does not need."""
