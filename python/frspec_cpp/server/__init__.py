"""`frspec serve`: an HTTP server that OpenAI's clients talk to (extra ``server``: FastAPI and uvicorn)."""
