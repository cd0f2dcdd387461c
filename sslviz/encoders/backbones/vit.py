"""Vision transformers under DINO's and timm's names; the feature is the class token after the last norm."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sslviz.encoders.backbones import BACKBONES, Family, Shapes


class ViTFamily(Family):
    anchors = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")

    def build(self, architecture: Mapping[str, Any]) -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        net: nn.Module = VisionTransformer(
            img_size=architecture["image_size"],
            patch_size=architecture["patch_size"],
            embed_dim=architecture["width"],
            depth=architecture["depth"],
            num_heads=architecture["width"] // 64,
            reg_tokens=architecture["registers"],
            no_embed_class=architecture["registers"] > 0,
            init_values=1e-5 if architecture["layer_scale"] else None,
            dynamic_img_size=True,
            num_classes=0,
        )
        return net

    def architecture(self, shapes: Shapes, writer: str) -> dict[str, Any]:
        width, _, patch, _ = shapes["patch_embed.proj.weight"]
        registers = shapes["register_tokens"][1] if "register_tokens" in shapes else 0
        grid = round((shapes["pos_embed"][1] - 1) ** 0.5)
        return {
            "image_size": grid * patch,
            "patch_size": patch,
            "width": width,
            "depth": len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}),
            "registers": registers,
            "layer_scale": any(name.endswith("ls1.gamma") for name in shapes),
        }

    def owns(self, name: str) -> bool:
        return name.split(".")[0] in {"cls_token", "register_tokens", "pos_embed", "patch_embed", "blocks", "norm"}

    def describe(self, architecture: Mapping[str, Any]) -> str:
        registers = f", {architecture['registers']} registers" if architecture["registers"] else ""
        return f"ViT, width {architecture['width']}, depth {architecture['depth']}, patch {architecture['patch_size']}{registers}"

    def input_size(self, architecture: Mapping[str, Any]) -> tuple[int, int]:
        size = int(architecture["image_size"])
        return size, round(size * 256 / 224)

    def rename(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """DINOv2 adds the class token's position to it and none to the registers; timm keeps positions of patches only."""
        if "register_tokens" not in state:
            return state
        state = dict(state)
        state["reg_token"] = state.pop("register_tokens")
        position = state["pos_embed"]
        state["cls_token"] = state["cls_token"] + position[:, :1]
        state["pos_embed"] = position[:, 1:]
        return state


BACKBONES.register("vit")(ViTFamily())
