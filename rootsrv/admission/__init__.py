"""Who is answered at all."""
