terraform {
  required_providers {
    trellis = {
      source = "trellis/trellis"
    }
  }
}

provider "trellis" {}

resource "trellis_project" "shop" {
  file = "${path.module}/compose.yaml"
}
