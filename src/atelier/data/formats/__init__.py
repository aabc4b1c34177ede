"""Parts of image formats that Pillow does not check or convert."""
