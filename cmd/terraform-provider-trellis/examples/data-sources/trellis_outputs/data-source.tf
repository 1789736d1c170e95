resource "trellis_project" "shop" {
  file = "${path.module}/compose.yaml"
}

data "trellis_outputs" "shop" {
  project = trellis_project.shop.id
}

output "port" {
  value = data.trellis_outputs.shop.ports["web:80"]
}
