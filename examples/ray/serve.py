"""The live server on a Ray cluster, a replica a GPU: serve run examples.ray.serve:application, or python examples/ray/serve.py

A client's WebSocket belongs to one replica for as long as it lasts, and that replica has its stream: nothing is shared between
replicas, and a client that connects again begins a new map, on whichever replica has room. Needs pip install 'ray[serve]'.

TOKEN is what clients send: Ray's proxy listens where --http-options say, so set it wherever others can reach that.
"""

import os

from ray import serve
from starlette.applications import Starlette

from ivggt_jax.serve.application import create_application
from ivggt_jax.serve.options import ServeConfig
from ivggt_jax.serve.service import load_service

CONFIG = ServeConfig(
    checkpoint=os.environ.get("CHECKPOINT", "demo"),
    clients=int(os.environ.get("CLIENTS", "8")),
    budget=int(os.environ["BUDGET"]) if "BUDGET" in os.environ else None,
    token=os.environ.get("TOKEN"),
)
REPLICAS = int(os.environ.get("REPLICAS", "1"))
GPUS = float(os.environ.get("GPUS", "1"))
"""Of a replica; 0 computes on CPUs."""


def build() -> Starlette:
    """The application of `ivggt serve`, made in each replica: the model is loaded and compiled there."""
    return create_application(load_service(CONFIG))


# A few requests beside the clients are let through: /healthz, /metrics, and strangers that are told to try again.
@serve.deployment(num_replicas=REPLICAS, ray_actor_options={"num_gpus": GPUS}, max_ongoing_requests=CONFIG.clients + 8)
@serve.ingress(build)
class Live:
    """A replica."""


application = Live.bind()

if __name__ == "__main__":
    serve.run(application, blocking=True)
