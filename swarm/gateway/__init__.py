"""The room `gateway`: HTTP in the words of the OpenAI API, and a page that shows the swarm. Knows a client, FastAPI and uvicorn; not which network there is."""
