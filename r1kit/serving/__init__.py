"""vLLM servers: started from the profile, watched, started again, ended whole. Loads no torch and no vLLM."""
