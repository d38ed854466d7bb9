"""What `r1kit bench` measures, a module per part."""
