"""The Recurrent Memory Transformer by its definition: one segment in float64, row by row."""

import math
from typing import Any

import numpy as np

from fastscan.models.memory_transformer.blocks import DualResidual, HyperConnection, Residual

erf = np.vectorize(math.erf)


def array(value):
    return np.asarray(value, np.float64)


def norm(module, xs):
    scale = np.sqrt((xs**2).mean(-1, keepdims=True) + module.eps)
    return xs / scale * array(module.weight)


def rotate(x, position):
    half = x.shape[-1] // 2
    angle = position / 32768 ** (np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def shift(xs, tokens):
    """The second half of the features of each token is that of the token before."""
    moved, half = xs.copy(), (xs.shape[1] + 1) // 2
    moved[tokens, half:] = 0
    moved[tokens.start + 1 : tokens.stop, half:] = xs[tokens.start : tokens.stop - 1, half:]
    return moved


def connect(module, stream, branch):
    """The stream after a residual connection."""
    if isinstance(module, Residual):
        return stream + branch(stream)
    if isinstance(module, DualResidual):
        y = branch(stream[0])
        return norm(module.norm, stream[0] + y), stream[1] + module.scale * y
    z = norm(module.norm, stream)
    alpha = array(module.static_alpha) + float(module.alpha_scale) * np.tanh(
        z @ array(module.dynamic_alpha)
    )
    beta = array(module.static_beta) + float(module.beta_scale) * np.tanh(
        z @ array(module.dynamic_beta)
    )
    y = branch(sum(alpha[:, s, :1] * stream[:, s] for s in range(stream.shape[1])))
    return np.stack(
        [
            sum(alpha[:, s, 1 + t, None] * stream[:, s] for s in range(stream.shape[1]))
            + beta[:, t, None] * y
            for t in range(stream.shape[1])
        ],
        1,
    )


def segment(
    model, memories, xl, xs, *, mask=None, hide_read=False, memory_causal=False, rotary=False
):
    """Logits, memories and XL memories (a list by layer of keys and values) after a segment.

    `memories` and `xl` are None before the first; token ids or features are `xs`.
    """
    stack, count, n = model.stack, len(model.memory_tokens), len(xs)
    if xs.ndim == 1:
        x = array(model.token_emb.weight)[xs]
    else:
        x = xs @ array(model.token_emb.weight).T + array(model.token_emb.bias)
    if model.pos_emb is not None:
        x = x + array(model.pos_emb)[:n]
    write = array(model.memory_tokens)
    if memories is not None and model.add_write_to_next_write_mem:
        write = write + memories
    read = array(model.read_memory_emb) + (0 if memories is None else memories)
    if memories is None and not model.always_have_read_memories:
        read = read[:0]
    r = len(read)
    total, tokens = r + n + count, slice(r, r + n)
    kinds = ["read"] * r + ["token"] * n + ["write"] * count

    def sees(q, k):
        if (mask is not None and kinds[k] == "token" and not mask[k - r]) or (
            hide_read and kinds[k] == "read"
        ):
            return False
        if not stack.causal or k <= q:
            return True
        return not memory_causal and kinds[q] == kinds[k] != "token"

    xl_count = 0 if xl is None else xl[0][0].shape[0]
    nulls = 0 if stack.layers[0].attention.null_kv is None else 1
    visible = np.ones((total, xl_count + nulls + total), bool)
    visible[:, xl_count + nulls :] = [[sees(q, k) for k in range(total)] for q in range(total)]
    own = [10000 + xl_count + i - r if kinds[i] == "token" else 0 for i in range(total)]
    places = [10000 + j for j in range(xl_count)] + [9999] * nulls + own

    if model.enhanced_xl_recurrence and xl is not None:
        xl = xl[1:] + xl[:1]
    after, first = [], None
    stream: Any = np.concatenate([read, x, write])
    kind = stack.layers[0].attention_residual
    if isinstance(kind, HyperConnection):
        stream = np.repeat(stream[:, None], len(kind.static_beta), 1)
    if isinstance(kind, DualResidual):
        stream = stream, stream * kind.scale
    for index, layer in enumerate(stack.layers):

        def attention(zs, index=index, layer=layer):
            nonlocal first
            part = layer.attention
            zs = shift(zs, tokens) if stack.token_shift else zs
            zs = zs if part.norm is None else norm(part.norm, zs)
            heads = part.heads
            q = (zs @ array(part.to_q.weight).T).reshape(total, heads, -1)
            kv = (zs @ array(part.to_kv.weight).T).reshape(total, 2, heads, -1)
            k, v = kv[:, 0], kv[:, 1]
            first = v if first is None else first
            if part.to_mix is not None:
                gate = 1 / (1 + np.exp(-zs @ array(part.to_mix.weight).T))
                v = v + gate[..., None] * (first - v)
            if part.null_kv is not None:
                k = np.concatenate([array(part.null_kv)[0][None], k])
                v = np.concatenate([array(part.null_kv)[1][None], v])
            after.append((k[-model.xl_mem_len :], v[-model.xl_mem_len :]))
            if xl is not None:
                k, v = np.concatenate([xl[index][0], k]), np.concatenate([xl[index][1], v])
            if rotary:
                q = np.stack([rotate(row, at) for row, at in zip(q, own, strict=True)])
                k = np.stack([rotate(row, at) for row, at in zip(k, places, strict=True)])
            scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
            weights = np.where(visible, np.exp(scores - scores.max()), 0)
            weights /= weights.sum(-1, keepdims=True)
            ys = np.einsum("hqk,khd->qhd", weights, v).reshape(total, -1)
            return ys @ array(part.to_out.weight).T

        def feedforward(zs, layer=layer):
            part = layer.feedforward
            zs = shift(zs, tokens) if stack.token_shift else zs
            zs = zs if part.norm is None else norm(part.norm, zs)
            a, b = np.split(zs @ array(part.to_hidden.weight).T, 2, -1)
            zs = a * b * (1 + erf(b / math.sqrt(2))) / 2
            zs = zs if part.hidden_norm is None else norm(part.hidden_norm, zs)
            return zs @ array(part.to_out.weight).T

        stream = connect(layer.attention_residual, stream, attention)
        stream = connect(layer.feedforward_residual, stream, feedforward)
    if isinstance(kind, DualResidual):
        ys = stream[0] + norm(stack.norm, stream[1])
    else:
        ys = stream.sum(1) if isinstance(kind, HyperConnection) else stream
        ys = norm(stack.norm, ys) if stack.normalised else ys
    rows = ys[tokens] if stack.normalised else norm(stack.norm, ys[tokens])
    logits = rows @ array(model.to_logits.weight).T + array(model.to_logits.bias)
    return logits, ys[r + n :], after if model.xl_mem_len else None
