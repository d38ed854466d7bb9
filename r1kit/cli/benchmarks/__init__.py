"""The measurements of `r1kit bench`, one module per part of r1kit."""
