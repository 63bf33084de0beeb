# What the compose file needs of Docker's official image, from Debian's package.
FROM debian:bookworm-slim
# The official image's uid and gid: volumes made by one work with the other.
RUN groupadd --system --gid 999 postgres && useradd --system --uid 999 --gid 999 \
      --home-dir /var/lib/postgresql --create-home --shell /bin/bash postgres \
    && mkdir -p /etc/postgresql-common \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-15 \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=999 --group=999 --mode=1777 \
         /var/lib/postgresql/data /var/run/postgresql
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
    PGDATA=/var/lib/postgresql/data
LABEL touchstone.stand-in="postgres"
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["docker-entrypoint.sh"]
STOPSIGNAL SIGINT
CMD ["postgres"]
