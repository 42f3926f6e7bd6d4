# docker build -t loss-zoo .
# docker run --gpus all --shm-size 2g -v "$PWD:/work" loss-zoo train --outdir=runs --data=photos.zip
FROM python:3.11-slim

# A C++ compiler for the operators; for those of CUDA build on an image with nvcc (docs/operators.md).
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir -r /src/requirements.txt && \
    pip install --no-cache-dir '/src[metrics,video,tensorboard]' && \
    rm -rf /src

# The operators are compiled once, into the image; for CUDA's, /cache must outlive a container (-v loss-zoo:/cache).
ENV DNNLIB_CACHE_DIR=/cache
# Whoever runs it may add operators for another processor; those that are there nobody may change (dnnlib/cache.py).
RUN mkdir -m 777 /cache /work && loss-zoo doctor --build && chmod -R go-w,a+rX /cache && chmod 1777 /cache /cache/ops
WORKDIR /work
ENTRYPOINT ["loss-zoo"]
CMD ["--help"]
