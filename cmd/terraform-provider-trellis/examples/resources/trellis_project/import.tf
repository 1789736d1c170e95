import {
  to = trellis_project.shop
  id = "compose.yaml"
}
