"""Record a tiny model, count its hooks, and compute by another route what should be found."""

import torch

import qformer_viz
from tests.support.fakes import QUERIES, generate_inputs


def record(model, images=1, *, seed=0):
    with torch.no_grad(), qformer_viz.capture(model) as recording:
        model.generate(**generate_inputs(model, images, seed=seed))
    return recording.result


def hooks(model):
    stores = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    flags = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")
    return sum(len(getattr(module, store)) for module in model.modules() for store in stores + flags)


def oracle(model, inputs):
    """The library's own eager maps and states, by a direct Q-Former call: cross, self, states."""
    keep = model.qformer.config._attn_implementation
    model.qformer.set_attn_implementation("eager")
    selves = []
    handles = [
        layer.attention.attention.register_forward_hook(lambda module, args, output: selves.append(output[1]))
        for layer in model.qformer.encoder.layer
    ]
    try:
        with torch.no_grad():
            features = model.vision_model(inputs["pixel_values"])[0]
            given = {"query_embeds": model.query_tokens.expand(len(features), -1, -1)}
            if "qformer_input_ids" in inputs:
                ones = torch.ones(len(features), QUERIES, dtype=torch.long)
                given["input_ids"] = inputs["qformer_input_ids"]
                given["attention_mask"] = torch.cat([ones, inputs["qformer_attention_mask"]], 1)
            output = model.qformer(
                encoder_hidden_states=features, output_attentions=True, output_hidden_states=True, **given
            )
    finally:
        for handle in handles:
            handle.remove()
        model.qformer.set_attn_implementation(keep)
    states = torch.stack(output.hidden_states)[:, :, :QUERIES]
    return torch.stack(output.cross_attentions), torch.stack(selves)[..., :QUERIES, :QUERIES], states
