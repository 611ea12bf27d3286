# For a CPU: docker build -t ivggt .    For an NVIDIA GPU: docker build -t ivggt:cuda --build-arg EXTRA=cuda13 .
# docker run --rm [--gpus all] -v "$PWD:/data" -v ivggt_cache:/cache ivggt my_video.mp4
FROM python:3.13-slim

# An extra of pyproject.toml: cuda12 or cuda13 bring CUDA's libraries as wheels, so that the driver alone comes from the host.
ARG EXTRA=""

COPY . /source
RUN pip install --no-cache-dir "/source${EXTRA:+[$EXTRA]}" && rm -rf /source

# Downloads, converted weights and compiled programs outlive a container that has a volume here.
ENV IVGGT_CACHE=/cache/ivggt HF_HOME=/cache/huggingface JAX_COMPILATION_CACHE_DIR=/cache/compiled
RUN mkdir -p /cache /data && chmod 777 /cache /data
WORKDIR /data
VOLUME ["/cache", "/data"]

ENTRYPOINT ["ivggt"]
CMD ["--help"]
