data "trellis_services" "shop" {
  project = "compose.yaml"
}

output "not_healthy" {
  value = [for name, s in data.trellis_services.shop.services : name if s.state != "healthy"]
}
