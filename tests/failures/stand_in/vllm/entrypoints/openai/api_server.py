"""What the keeper starts in vLLM's place: tests/training's server with a real model, which obeys orders."""

from tests.training.stand_in_server import main

if __name__ == "__main__":
    main()
