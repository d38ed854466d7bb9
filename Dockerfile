# r1kit on a GPU image whose own torch and vLLM stay as they are. Other stacks:
#   docker build --build-arg STACK=cuda --build-arg BASE=vllm/vllm-openai:v0.31.0 -t r1kit:cuda .
#   docker build --build-arg STACK=cpu  --build-arg BASE=python:3.11-slim-bookworm -t r1kit:cpu .
# Bases and why these: BASES in r1kit/machine/versions.py. For results worth keeping give BASE by its digest.
# How to run it, without --privileged: docs/clusters.md. Not built by us on a GPU; its steps are tested in a plain
# virtual environment (tests/requirements).
ARG BASE=vllm/vllm-openai-rocm:v0.27.1
FROM ${BASE}
ARG BASE
ARG STACK=rocm

USER root
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# bubblewrap isolates model-written code, g++ builds DeepSpeed's operators. Versions are the base's distribution's.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends bubblewrap g++ git make \
 && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /opt/r1kit/source
COPY requirements requirements
RUN python3 requirements/layer.py freeze /opt/r1kit --base "${BASE}" --stack "${STACK}"
RUN python3 requirements/layer.py install /opt/r1kit

COPY . .
RUN python3 -m pip install --no-deps --editable .
RUN python3 requirements/layer.py check /opt/r1kit

# An ordinary user; the groups of the device files come with `docker run --group-add`.
RUN useradd --create-home --shell /bin/bash r1kit \
 && mkdir -p /runs /cache \
 && chown r1kit /runs /cache
USER r1kit
ENV R1KIT_RUNS=/runs \
    HF_HOME=/cache/huggingface
WORKDIR /opt/r1kit/source
# The bases start vLLM; this image starts what it is told.
ENTRYPOINT []
CMD ["r1kit", "doctor"]
