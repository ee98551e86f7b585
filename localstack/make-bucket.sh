#!/bin/bash
# LocalStack runs this once it is ready.
awslocal s3api create-bucket --bucket esker
