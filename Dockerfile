# One image for every process of the ledger; docker-compose.yml says which command each one runs.
FROM python:3.13-slim-trixie AS build
WORKDIR /source
RUN python -m venv /opt/ledger
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ledger ledger
COPY projections projections
COPY workers workers
COPY archive archive
COPY api api
RUN /opt/ledger/bin/pip install --no-cache-dir --constraint constraints.txt '.[server]'

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="ingestion-ledger" org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 10001 --home-dir /var/lib/ledger --create-home ledger \
    && mkdir --parents /var/lib/ledger/blobs /var/lib/ledger/checkpoints /var/lib/ledger/archive \
    && chown --recursive ledger:ledger /var/lib/ledger
COPY --from=build /opt/ledger /opt/ledger
ENV PATH=/opt/ledger/bin:$PATH PYTHONUNBUFFERED=1
USER ledger
WORKDIR /var/lib/ledger
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["uvicorn", "api.app:app", "--host", "0.0.0.0", "--port", "8000", "--no-access-log"]
