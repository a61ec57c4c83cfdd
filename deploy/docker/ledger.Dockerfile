# The ledger, and its command line: docker build -f deploy/docker/ledger.Dockerfile -t usage-ledger/ledger .
#
# Settings come from the environment, or each from a file /run/secrets/ledger_…; see deploy/guides/containers.md.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
# An index of your own. Neither this stage nor what it was told is part of the image.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /app
COPY pyproject.toml requirements.lock ./
COPY deploy deploy
# --no-deps: what is not in the lock is not installed; `pip check` then says whether anything is missing. One of them has
# no wheel: it is built with the setuptools of the base image, so that nothing comes in without a hash. Of pyarrow, which
# is half of it all, headers and two kinds of servers that the ledger does not speak to are left out.
RUN python -m deploy.docker.dependencies ledger >/tmp/packages.txt \
 && python -m pip install --quiet --no-cache-dir --no-deps --require-hashes --no-build-isolation --target /packages \
    --only-binary :all: --no-binary nkeys -r /tmp/packages.txt \
 && PYTHONPATH=/packages python -m pip check \
 && find /packages -type d -name tests -prune -exec rm -rf {} + \
 && cd /packages/pyarrow && rm -rf include *flight* *s3*
COPY contracts contracts
COPY ledger_service ledger_service
# Nothing is compiled at run time, where nothing can be written.
RUN rm -r requirements.lock deploy/supply && python -m compileall -q -j 0 /packages /app && chmod -R a+rX /app /packages \
 && install -d -o 10001 -g 10001 /data \
 && printf '#!/bin/sh\nexec python -m ledger_service.cli "$@"\n' >/app/ledger && chmod 755 /app/ledger

FROM ${PYTHON_IMAGE}
COPY --from=build /packages /packages
COPY --from=build /app /app
# Where LEDGER_SEALS_FILE and LEDGER_ARCHIVE_FOLDER may be, on a volume.
COPY --from=build --chown=10001:10001 /data /data
WORKDIR /app
ENV PATH=/app:$PATH PYTHONPATH=/app:/packages PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    LEDGER_HOST=0.0.0.0 LEDGER_PORT=8001
USER 10001:10001
EXPOSE 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python", "-IS", "/app/deploy/docker/healthcheck.py", "8001"]
CMD ["python", "-m", "ledger_service"]
