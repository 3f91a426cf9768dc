"""The S4 layer on its own: remember every symbol and repeat it 50 steps later.

Run it with ``python examples/copy_delay.py``: seconds on a CPU. Guessing has a loss of ln 8 = 2.08.
"""

import torch

from mads4.nn import S4Layer

torch.manual_seed(0)
delay, length = 50, 256
model = torch.nn.Sequential(torch.nn.Embedding(8, 64), S4Layer(64, 64), torch.nn.Linear(64, 8))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(301):
    u = torch.randint(8, (16, length))
    logits, target = model(u)[:, delay:], u[:, :-delay]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step}: loss {loss.item():.4f}")
