"""vLLM servers: start them from a profile, watch, restart and end them, and send them weights."""
