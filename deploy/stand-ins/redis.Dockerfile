# What the compose file needs of Docker's official image, from Debian's package.
FROM debian:bookworm-slim
# The official image's uid and gid: volumes made by one work with the other.
RUN groupadd --system --gid 999 redis && useradd --system --uid 999 --gid 999 --home-dir /data redis \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=999 --group=999 /data
LABEL touchstone.stand-in="redis"
VOLUME /data
WORKDIR /data
CMD ["redis-server"]
