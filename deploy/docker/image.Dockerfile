# The image service: docker build -f deploy/docker/image.Dockerfile -t usage-ledger/image .
#
# Settings come from the environment, or each from a file /run/secrets/image_…; see deploy/guides/containers.md.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
# An index of your own. Neither this stage nor what it was told is part of the image.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /app
COPY pyproject.toml requirements.lock ./
COPY deploy deploy
# --no-deps: what is not in the lock is not installed; `pip check` then says whether anything is missing. One of them has
# no wheel: it is built with the setuptools of the base image, so that nothing comes in without a hash.
RUN python -m deploy.docker.dependencies image >/tmp/packages.txt \
 && python -m pip install --quiet --no-cache-dir --no-deps --require-hashes --no-build-isolation --target /packages \
    --only-binary :all: --no-binary nkeys -r /tmp/packages.txt \
 && PYTHONPATH=/packages python -m pip check \
 && find /packages -type d -name tests -prune -exec rm -rf {} +
COPY contracts contracts
COPY image_service image_service
# Nothing is compiled at run time, where nothing can be written.
RUN rm -r requirements.lock deploy/supply && python -m compileall -q -j 0 /packages /app && chmod -R a+rX /app /packages \
 && install -d -o 10001 -g 10001 /data

FROM ${PYTHON_IMAGE}
COPY --from=build /packages /packages
COPY --from=build /app /app
# The journal, idempotency keys and results: a volume of each replica's own.
COPY --from=build --chown=10001:10001 /data /data
WORKDIR /app
ENV PYTHONPATH=/app:/packages PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    IMAGE_HOST=0.0.0.0 IMAGE_DATA_DIR=/data IMAGE_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python", "-IS", "/app/deploy/docker/healthcheck.py", "8000"]
CMD ["python", "-m", "image_service"]
