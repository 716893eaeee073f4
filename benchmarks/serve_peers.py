"""What `bench_serve` runs beside the server: the same ONNX model behind FastAPI and MLServer."""

from __future__ import annotations

FASTAPI = """
import numpy as np
import onnxruntime
from fastapi import FastAPI, Request

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession("model.onnx", options)
kinds = {"FP32": np.float32, "INT64": np.int64}
app = FastAPI()


@app.get("/ready")
def ready():
    return {"ready": True}


@app.post("/infer")
async def infer(request: Request):
    tree = await request.json()
    inputs = {
        one["name"]: np.array(one["data"], kinds[one["datatype"]]).reshape(one["shape"])
        for one in tree["inputs"]
    }
    return {"score": session.run(["score"], inputs)[0].tolist()}
"""

MLSERVER_SETTINGS = {
    "debug": False,
    "host": "127.0.0.1",
    # Its workers' processes would be more than the one that the others have.
    "parallel_workers": 0,
    "use_structured_logging": False,
}

MLSERVER_MODEL = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Onnx(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession("model.onnx", options)
        return True

    async def predict(self, payload):
        inputs = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        score = self.session.run(["score"], inputs)[0]
        output = NumpyCodec.encode_output("score", score)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""
