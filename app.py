"""The app: python app.py opens the bundled model at http://127.0.0.1:7860; --help lists the options.

python app.py --model Salesforce/blip2-opt-2.7b --quantization 8bit      a model for photographs
"""

import os
import sys

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # before torch, or ZeroGPU cannot hold the GPU back

    @spaces.GPU
    def declared() -> None:
        """ZeroGPU stops a Space that declares nothing for the GPU; a bundled model needs none."""


from qformer_viz.cli.commands.app_command import main

if __name__ == "__main__":
    sys.exit(main())
