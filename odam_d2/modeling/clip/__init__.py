"""Image-text models in the manner of CLIP (the extra ``clip``)."""
