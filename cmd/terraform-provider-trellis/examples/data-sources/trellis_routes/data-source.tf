data "trellis_routes" "shop" {
  project = "compose.yaml"
}

# Nobody may open a route to everybody without this check knowing of it.
check "open_routes" {
  assert {
    condition     = alltrue([for r in data.trellis_routes.shop.routes : r.auth != "none" || r.path == "/"])
    error_message = "A route is open to everybody."
  }
}
