"""One torch thread: the machines that run this are small."""

import torch

torch.set_num_threads(1)
