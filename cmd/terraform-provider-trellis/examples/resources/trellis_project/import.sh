terraform import trellis_project.shop compose.yaml
terraform import trellis_project.staging 'compose.yaml?environment=staging&engine=kubernetes&context=staging&namespace=shop'
