"""An opened model and the requests to it: what LLM, AsyncLLM and the server share."""
