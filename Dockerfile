# Every command of swarm in one image. Build from here:
#   docker build -t swarm .
#   docker run --rm swarm swarm-serve --help
# compose.yaml runs a bootstrap peer, a peer and a gateway of it. Settings are variables of the environment (docs/configuration.md).
# For CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t swarm:cuda . and run it with --gpus all.
FROM python:3.11-slim

# A C++ compiler makes a CPU decode about twice as fast; it is used once, at the first start, and what it makes is kept under SWARM_CACHE.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

# torch first: PyPI's package would bring CUDA along. hivemind's wheel is for x86-64; elsewhere pip builds it from source, which needs Go.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /src/
RUN pip install --no-cache-dir --constraint /src/constraints.txt --index-url "$TORCH_INDEX" torch
COPY . /src
RUN pip install --no-cache-dir --constraint /src/constraints.txt /src \
 && rm -rf /src \
 && useradd --create-home swarm && install -d -o swarm /state

USER swarm
VOLUME /state
ENV XDG_STATE_HOME=/state XDG_CONFIG_HOME=/state SWARM_CACHE=/state/cache HF_HOME=/state/huggingface PYTHONUNBUFFERED=1
STOPSIGNAL SIGINT
EXPOSE 31337/tcp 31338/tcp 8000/tcp
CMD ["swarm-serve", "--help"]
