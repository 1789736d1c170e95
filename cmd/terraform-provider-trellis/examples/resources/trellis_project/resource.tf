# The application, on this machine.
resource "trellis_project" "shop" {
  file = "${path.module}/compose.yaml"

  variables = {
    VERSION = "1.4.2"
  }

  timeouts = {
    create = "5m"
    update = "5m"
  }
}

# The same file with compose.staging.yaml over it, in a cluster.
resource "trellis_project" "staging" {
  file        = "${path.module}/compose.yaml"
  environment = "staging"
  engine      = "kubernetes"
  context     = "staging"
  namespace   = "shop"

  secret_variables = {
    SMTP_PASSWORD = var.smtp_password
  }
}

variable "smtp_password" {
  type      = string
  sensitive = true
}
